"""A stand-in for a Proxmox node: its API served locally, with real QEMU guests behind it."""
