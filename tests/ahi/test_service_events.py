"""Batches of events: what each kind leaves behind."""

import sqlalchemy as sa

from ahi.index import catalog


def test_events_of_a_data_store_come_through_the_template_and_are_recorded(make_site):
    """Nothing acts on them; that a data store went, and when, is in the index all the same."""
    site = make_site(listen_seconds=0)
    api = site.stack.client("medical-imaging")
    other = api.create_datastore(datastoreName="another")["datastoreId"]
    api.delete_datastore(datastoreId=site.datastore_id)
    events = catalog.events

    def recorded():
        site.collect()
        site.work()
        with site.pipeline.index.engine.connect() as connection:
            found = connection.execute(sa.select(events.c.detail_type, events.c.subject, events.c.outcome)).all()
        return found if len(found) == 4 else None

    assert set(site.stack.wait_for(recorded, what="four events")) == {
        ("Data Store Deleting", site.datastore_id, "recorded"),
        ("Data Store Deleted", site.datastore_id, "recorded"),
        ("Data Store Creating", other, "foreign"),
        ("Data Store Created", other, "foreign"),
    }
