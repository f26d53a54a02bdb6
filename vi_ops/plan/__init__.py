"""What to do: pure functions from specs and facts to plans. No I/O, no clock."""
