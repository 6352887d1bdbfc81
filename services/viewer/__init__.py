"""The run viewer: web pages over a folder of runs. Reads what runs write; asks a working run only to stop or to scale."""
