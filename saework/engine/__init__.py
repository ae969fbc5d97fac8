"""The only code that runs a model or an SAE: activations at a hook, features of them, splices, losses after them."""
