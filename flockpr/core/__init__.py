"""The rules: the state of one logical unit and the one pure `step`."""
