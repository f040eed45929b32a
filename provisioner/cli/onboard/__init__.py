"""The main job in one command: from a list of projects, or from Infisical itself, to connections and a report."""
