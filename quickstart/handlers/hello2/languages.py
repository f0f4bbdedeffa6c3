"""What a caller says of the languages that it understands."""


def preferred(header):
    """The languages of an Accept-Language header, best first, without their regions."""
    wanted = []
    for entry in header.split(","):
        language, _, weight = entry.strip().partition(";q=")
        try:
            wanted.append((float(weight or 1), language.split("-")[0].lower()))
        except ValueError:
            # As if it were not there.
            continue
    # The order stays among those that are wanted as much.
    return [language for _, language in sorted(wanted, key=lambda pair: -pair[0])]
