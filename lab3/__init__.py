"""Lab 3: Transformers and transfer learning, each claim measured."""
