"""The command ``sdrt``."""
