"""Where pictures and their texts come from: folders, tables, tar shards, Hugging Face datasets."""
