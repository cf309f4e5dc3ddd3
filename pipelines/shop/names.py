"""What a shop's columns are called, unless `--columns` says otherwise."""

ITEM_NAMES = ("item_id", "title", "text", "group", "photo")
PURCHASE_NAMES = ("customer_id", "item_id", "time")
NAMES = tuple(dict.fromkeys([*ITEM_NAMES, *PURCHASE_NAMES]))
