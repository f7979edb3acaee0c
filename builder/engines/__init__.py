"""The engines that carry a recipe out: one module each, none aware of another."""
