"""`hari bench`: the product, what people would write instead, and the machine's limit, side by side in one run."""
