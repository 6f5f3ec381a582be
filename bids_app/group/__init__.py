"""The group level: embeddings collected, searched and asked for predictions."""
