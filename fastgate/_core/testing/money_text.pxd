"""money_text: amounts as refusals write them."""
