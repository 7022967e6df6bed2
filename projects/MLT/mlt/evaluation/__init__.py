"""From features to mAP, mINP and CMC."""
