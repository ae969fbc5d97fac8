"""The only code that runs a model or an SAE.

Activations at a hook, features of them, splices, and the losses after them.
"""
