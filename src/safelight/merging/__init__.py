"""Models and adapters made of other models and adapters: merged, extracted, resized."""
