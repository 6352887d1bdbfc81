"""From groups of completions to rows of tokens, and from a step number to its prompts."""
