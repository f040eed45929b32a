-- What the fleet tells others: what was seen and told already, and what is still to be sent. Used only where `notify.url` is set.

-- Whose turn it is to look, one row: the worker that moves `checked_at` on looks and sends. What ended before `since` is not told.
CREATE TABLE provisioner.notice_turn (
    one boolean PRIMARY KEY DEFAULT true,
    checked_at timestamptz NOT NULL DEFAULT '-infinity',
    since timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

INSERT INTO provisioner.notice_turn DEFAULT VALUES;

-- What needs a person and was seen: since when, whether others were told, since when it is not seen any more.
CREATE TABLE provisioner.notice_concerns (
    kind text NOT NULL,
    subject text NOT NULL,
    since timestamptz NOT NULL,
    told boolean NOT NULL,
    gone_at timestamptz,
    PRIMARY KEY (kind, subject)
);

-- Batches whose end was told, and which end: one that goes on, and ends again, is told again.
CREATE TABLE provisioner.notice_batches (
    batch text PRIMARY KEY,
    ended_at timestamptz NOT NULL
);

-- The outbox. What is noticed is written in the transaction that remembers it, and sent after that: `due_at` is when it may be
-- taken (again), moved on by whoever takes it, so that another worker sends what a dead one took. The id is what receivers tell
-- repeats by. Ids are drawn by lot, so that they are unlike those of another installation at the same receiver.
CREATE TABLE provisioner.notices (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    event text NOT NULL,
    content jsonb NOT NULL,
    noticed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    due_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    tries integer NOT NULL DEFAULT 0,
    sent_at timestamptz,
    error text
);

COMMENT ON TABLE provisioner.notices IS 'What is told to notify.url: sent once sent_at is set, otherwise tried (again) at due_at';
COMMENT ON COLUMN provisioner.notices.error IS 'Why the last try to send it came to nothing';
