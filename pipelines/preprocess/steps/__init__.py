"""The steps of the graph, files in and files out."""
