"""Steps from an image to a vector: arrays and paths in, arrays and paths out."""

if __name__ != "neurostorm_app.pipelines":
    raise ImportError("import neurostorm_app.pipelines, not the folder pipelines")
