"""Parse, call, print: no decision is made here, and nothing heavy is imported at the top."""
