"""What should be: frozen pydantic models read from the Ansible inventory."""
