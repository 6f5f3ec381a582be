"""Networks and their weights: tensors in, tensors out."""

if __name__ != "neurostorm_app.models":
    raise ImportError("import neurostorm_app.models, not the folder models")

from neurostorm_app.models.registry import create_model, list_models, read_card

__all__ = ["create_model", "list_models", "read_card"]
