"""A CLIP of one's own: vocabulary, phrases, distillation from a sentence encoder, contrast."""
