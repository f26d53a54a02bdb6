"""What is: frozen dataclasses, each with the pure parser of the answer it comes from."""
