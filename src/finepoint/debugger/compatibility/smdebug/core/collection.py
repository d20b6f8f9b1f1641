"""Collections."""

from finepoint.debugger.collection import Collection, CollectionKeys

__all__ = ["Collection", "CollectionKeys"]
