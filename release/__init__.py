"""What is made from the sources for people to install: `python -m release`."""
