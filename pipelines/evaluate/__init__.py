"""What can be told of people from their embeddings, honestly evaluated: arrays in, arrays out."""
