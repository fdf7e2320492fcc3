"""The common ground of all recipes: settings, the folder of an experiment, the run on the server, the loop."""
