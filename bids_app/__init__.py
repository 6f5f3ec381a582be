"""What the user meets: BIDS in, BIDS out."""

if __name__ != "neurostorm_app.bids_app":
    raise ImportError("import neurostorm_app.bids_app, not the folder bids_app")
