"""Finding, checking, splitting, decoding and preprocessing images. No torch in this room."""
