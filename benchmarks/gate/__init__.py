"""How often the gate is wrong, on published judgments with known drops put into them."""
