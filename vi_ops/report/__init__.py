"""Words and JSON for plans and outcomes; knows nothing of hosts."""
