"""How a run that works is watched and steered from outside: files in its folder, so that whoever sees the folder can."""
