"""Ways to start a model server; each is one module with one class that satisfies `Launcher`."""
