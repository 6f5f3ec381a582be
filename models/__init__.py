"""Networks and their weights: tensors in, tensors out."""

if __name__ != "neurostorm_app.models":
    raise ImportError("import neurostorm_app.models, not the folder models")
