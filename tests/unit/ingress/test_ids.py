from itertools import count

from offloop.ingress.ids import BLOCK, epoch_of, rids


def test_ids_are_unique_and_tell_which_process_made_them() -> None:
    here, there = rids(), rids()
    made = [here() for _ in range(BLOCK)]
    assert len(set(made)) == BLOCK
    assert {epoch_of(rid) for rid in made} == {epoch_of(here())}
    assert epoch_of(there()) != epoch_of(here())


def test_an_id_is_its_epoch_its_number_and_a_secret_of_its_own() -> None:
    blocks = count()

    def random(size: int) -> bytes:
        return bytes([next(blocks)]) * size

    rid = rids(random)
    assert rid() == f"{'00' * 8}-1-{'01' * 8}"
    for _ in range(BLOCK // 8 - 1):
        rid()
    assert rid() == f"{'00' * 8}-{BLOCK // 8 + 1:x}-{'02' * 8}"


def test_the_secret_has_64_bits_and_is_never_used_twice() -> None:
    rid = rids()
    secrets = [rid().split("-")[2] for _ in range(3000)]
    assert {len(secret) for secret in secrets} == {16}
    assert len(set(secrets)) == 3000
