"""``python -m examples.shop``."""

from examples.shop.app import main

main()
