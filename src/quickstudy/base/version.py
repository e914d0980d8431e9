"""The version, alone in its file so that the build and the command line read it without torch."""

__version__ = "0.1.0"
