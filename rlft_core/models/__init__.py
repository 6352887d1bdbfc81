"""Where models come from. Loading and running them is the business of the parts that use them."""
