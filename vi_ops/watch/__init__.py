"""The loops: read, decide with a pure function, act, sleep."""
