import pytest

SMALL = ("fluorescence_small", "smear_bright_field", "tissue_pink")  # the least work
COUNTS = ("alone", "beside", "in_both")


@pytest.fixture
def script():
    import padding

    return padding


@pytest.mark.slow
def test_trained_enl_differs_with_its_batch_no_more_than_the_plain_pyramid(script):
    photographs = [script.PHOTOGRAPHS / f"{name}.jpg" for name in SMALL]
    rows = {system: script.rows(system, photographs) for system in ("plain FPN", "ENL")}
    largest = {
        system: max(value for row in own for value in row["by_level"].values())
        for system, own in rows.items()
    }
    # Its convolutions look over the image's edge.
    assert 0 < largest["ENL"] <= 1.1 * largest["plain FPN"] < 1.1
    for own in rows.values():
        alone, beside, in_both = (sum(row[name] for row in own) for name in COUNTS)
        assert 0.95 * alone < in_both <= alone
        assert beside < 1.05 * alone  # where ENL attends to the padding, it finds a tenth more
    [table] = script.tables({"photographs": rows["plain FPN"] + rows["ENL"]})
    assert "plain FPN" in table and "| ENL |" in table.replace("  ", "")
