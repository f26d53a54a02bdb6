"""vi-ops: GPU virtual machines on Proxmox, from bare node to a supervised pipeline."""

__version__ = "0.1.0"
