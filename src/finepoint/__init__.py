"""finepoint: from a folder of labelled images to a deployed classifier, on one machine."""

__version__ = "0.1.0"
