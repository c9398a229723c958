"""Caption what arrives or changes in folders, for as long as the command runs."""
