"""`provisioner remove` and `provisioner rekey`: what becomes of each request is said before, and done."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from provisioner.core.key_health import fingerprint
from provisioner.core.secret import Secret
from tests.support.cli import provisioner, query
from tests.support.operators import ask, finish, fly, one_of_each, postpone, states

if TYPE_CHECKING:
    from tests.support.postgres import Database

KEY = {"PROVISIONER_CREDENTIALS__DEFAULT__VALUE": "sk-or-v1-new", "PROVISIONER_CREDENTIALS__TEAM_A__ENV": "UNSET"}


def adopt(database: Database, *ids: int, how: str = "adopt") -> None:
    """Mark records as adopted."""
    for request in ids:
        query(
            database,
            f"UPDATE provisioner.connection_requests SET adopted = true, on_conflict = '{how}' WHERE id = {request}",
        )


def recorded(database: Database, print_: str, credential: str = "default") -> int:
    """A request whose connection has the key of this fingerprint."""
    (request,) = ask(database, credential=f"'{credential}'")
    finish(database, [request])
    query(database, f"UPDATE provisioner.connection_requests SET key_fingerprint = '{print_}' WHERE id = {request}")
    return request


def test_a_batch_is_undone_after_it_was_told_how(database: Database) -> None:
    """`--dry-run` reports what would be deleted, let go and ended at once; without it that happens."""
    ids = one_of_each(database)
    (theirs,) = ask(database, batch="'mixed'")
    finish(database, [theirs])
    adopt(database, theirs)
    (other,) = ask(database)
    before = states(database)
    said = provisioner("remove", "--batch", "mixed", "--dry-run", database=database)
    assert (said.returncode, said.stderr) == (0, "")
    assert [line.split()[0] for line in said.stdout.splitlines()] == ["2", "1", "4", "nothing"]
    assert "1 adopted: would be forgotten here" in said.stdout
    assert states(database) == before
    done = provisioner("remove", "--batch", "mixed", "--json", database=database)
    assert done.returncode == 0
    document = json.loads(done.stdout)
    assert document["changed"] == document["would_change"] == {"removing": 2, "let go": 1, "removed": 4}
    after = states(database)
    assert after.pop(other) == "ready"
    assert (after[ids["succeeded"]], after[theirs], after[ids["ready"]]) == ("removing", "removing", "removed")
    again = provisioner("remove", "--batch", "mixed", database=database)
    assert again.returncode == 0
    assert [line.split()[0] for line in again.stdout.splitlines()] == ["4", "3"]


def test_what_was_adopted_is_deleted_only_if_it_is_meant(database: Database) -> None:
    """`--adopted` counts adopted ones with the deleted, and stores the choice."""
    (theirs,) = ask(database)
    finish(database, [theirs])
    adopt(database, theirs)
    said = provisioner("remove", str(theirs), "--adopted", "--dry-run", "--json", database=database)
    assert json.loads(said.stdout)["would_change"] == {"removing": 1}
    assert provisioner("remove", str(theirs), "--adopted", database=database).returncode == 0
    assert query(database, "SELECT id, adopted FROM provisioner.edits") == f"{theirs}|t"


def test_what_is_in_doubt_or_in_flight_may_have_a_connection(database: Database) -> None:
    """They are counted with the deleted, which is what the workers find out."""
    flying, doubted = ask(database, 2)
    fly(database, flying)
    postpone(database, doubted, code="outcome_unknown", unknown=True)
    said = provisioner("remove", "--all", "--dry-run", "--json", database=database)
    assert json.loads(said.stdout)["would_change"] == {"removing": 2}


def test_nothing_is_removed_by_a_slip(database: Database) -> None:
    """Without a selection, with an unknown id or batch, and for removed requests, the exit status says so."""
    (request,) = ask(database)
    assert provisioner("remove", database=database).returncode == 2
    assert provisioner("rekey", database=database).returncode == 2
    for wrong in (["remove", "77777"], ["remove", "--batch", "no-such"], ["rekey", "77777"]):
        done = provisioner(*wrong, database=database)
        assert (done.returncode, done.stdout) == (1, "")
    assert states(database) == {request: "ready"}
    assert provisioner("remove", str(request), database=database).returncode == 0
    again = provisioner("remove", str(request), database=database)
    assert (again.returncode, again.stdout) == (1, "      1 already removed\n")


def test_rekeying_tells_what_gets_the_key(database: Database) -> None:
    """Of a credential's requests those with a connection of ours get the key; why others do not is said."""
    ours = recorded(database, "of-old-key", "Team_A")
    theirs, replaced = (recorded(database, "of-old-key", "team-a") for _ in range(2))
    adopt(database, theirs)
    adopt(database, replaced, how="replace")
    other = recorded(database, "of-old-key")
    ask(database, credential="'team-a'")
    said = provisioner("rekey", "--credential", "team-a", "--dry-run", database=database)
    assert (said.returncode, said.stderr) == (0, "")
    assert [line.split()[0] for line in said.stdout.splitlines()] == ["2", "1", "1", "nothing"]
    done = provisioner("rekey", "--credential", "team-a", "--json", database=database)
    assert json.loads(done.stdout)["changed"] == {"sent": 2}
    after = states(database)
    assert (after[ours], after[replaced], after[theirs], after[other]) == (*["updating"] * 2, *["succeeded"] * 2)
    assert query(database, "SELECT count(*) FROM provisioner.edits WHERE credential") == "2"


def test_outdated_compares_with_the_key_of_this_host(database: Database) -> None:
    """Only connections with another key than their credential's get it; a key that is not here is named."""
    salt = query(database, "SELECT salt::text FROM provisioner.salt")
    present = recorded(database, fingerprint(Secret("sk-or-v1-new"), salt))
    old = recorded(database, "of-old-key")
    recorded(database, "of-old-key", "team-a")
    done = provisioner("rekey", "--outdated", database=database, more=KEY)
    assert (done.returncode, done.stderr) == (0, "")
    assert "not compared: the environment variable UNSET is empty or not set" in done.stdout
    assert [line.split()[0] for line in done.stdout.splitlines()[1:]] == ["1", "1", "1"]
    after = states(database)
    assert (after[old], after[present]) == ("updating", "succeeded")
    none = provisioner("rekey", "--outdated", "--credential", "team-a", database=database, more=KEY)
    assert (none.returncode, none.stdout) == (1, "")
    assert "there is no key to compare with" in none.stderr


def test_status_counts_old_keys_where_the_key_is_at_hand(database: Database) -> None:
    """People and programs get the number; without a key, or without differences, nothing is said."""
    salt = query(database, "SELECT salt::text FROM provisioner.salt")
    recorded(database, fingerprint(Secret("sk-or-v1-new"), salt))
    before = provisioner("status", "--json", database=database, more=KEY)
    assert json.loads(before.stdout)["old_keys"] == 0
    recorded(database, "of-old-key")
    adopt(database, recorded(database, "of-old-key"))
    said = provisioner("status", database=database, more=KEY)
    assert "1 connection has an old key: `provisioner rekey --outdated`" in said.stdout
    assert (said.returncode, said.stderr) == (0, "")
    assert json.loads(provisioner("status", "--json", database=database).stdout)["old_keys"] is None


def rotation(database: Database, connection: int, **columns: str) -> int:
    """A recorded rotation that uses a connection."""
    request = query(
        database,
        "INSERT INTO provisioner.rotation_requests (project_id, batch) SELECT project_id, batch"
        f" FROM provisioner.connection_requests WHERE id = {connection} RETURNING id",
    )
    chosen = "".join(f", {column} = {value}" for column, value in columns.items())
    query(
        database,
        "UPDATE provisioner.rotation_requests SET status = 'succeeded', rotation_id = gen_random_uuid(),"
        f" key_issued = 'the key', finished_at = now(){chosen} WHERE id = {request}",
    )
    return int(request)


def wishes(database: Database) -> list[str]:
    """Each rotation's `wanted`, and what its removal includes."""
    sql = "SELECT wanted, with_secrets, revoke_keys FROM provisioner.rotation_requests ORDER BY id"
    return query(database, sql).splitlines()


def test_a_batch_with_rotations_is_undone_as_it_was_told(database: Database) -> None:
    """Both kinds are counted, the rotations first, and the removal includes what was requested."""
    connections = ask(database, 3, batch="'pilot'")
    finish(database, connections)
    theirs = [rotation(database, connections[0]), rotation(database, connections[1], adopted="true")]
    asked = ("remove", "--batch", "pilot", "--revoke-keys", "--json")
    foreseen = json.loads(provisioner(*asked, "--dry-run", database=database).stdout)["would_change"]
    assert foreseen == {"removing": 4, "let go": 1}
    assert json.loads(provisioner(*asked, database=database).stdout)["changed"] == foreseen
    assert wishes(database) == ["absent|f|t", "absent|f|t"]
    waiting = "SELECT quarantine FROM provisioner.waiting WHERE id = ANY (ARRAY{}) ORDER BY id"
    assert query(database, waiting.format(connections)).splitlines() == ["rotations"]
    assert query(database, f"SELECT state FROM provisioner.rotation_status WHERE id = {theirs[0]}") == "removing"


def test_a_rotation_alone_is_removed_by_its_id(database: Database) -> None:
    """Its connection stays; the removal includes what the command line says, or what its row said before."""
    (connection,) = ask(database)
    finish(database, [connection])
    request = rotation(database, connection, revoke_keys="true")
    said = provisioner("remove", str(request), "--with-secrets", database=database)
    assert said.stdout.split()[:2] == ["1", "will"]
    assert wishes(database) == ["absent|t|t"]
    assert states(database)[connection] == "succeeded"
    again = provisioner("remove", str(request), database=database)
    assert (again.returncode, "already being removed" in again.stdout) == (1, True)
    unknown = provisioner("remove", "1000000009999", database=database)
    assert "there is no request 1000000009999" in unknown.stderr


def test_adopted_rotations_go_with_their_connection_only_if_it_is_meant(database: Database) -> None:
    """Without --adopted only the connection is asked to go, and with it both are."""
    (connection,) = ask(database)
    finish(database, [connection])
    request = rotation(database, connection, adopted="true")
    provisioner("remove", str(connection), database=database)
    assert wishes(database) == ["present|f|f"]
    query(database, f"UPDATE provisioner.connection_requests SET wanted = 'present' WHERE id = {connection}")
    provisioner("remove", str(connection), "--adopted", "--with-secrets", database=database)
    assert wishes(database) == ["absent|t|f"]
    assert query(database, "SELECT id, adopted FROM provisioner.edits") == f"{request}|t"
