"""A guest as a QEMU process: everything below the API. Knows nothing of HTTP, users or tasks."""
