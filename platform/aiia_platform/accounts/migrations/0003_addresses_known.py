from typing import Any

from django.db import migrations


def note(apps: Any, schema_editor: Any) -> None:
    """Addresses from before they were confirmed by mail: known, and confirmed for nobody."""
    addresses, users = apps.get_model("account", "EmailAddress"), apps.get_model("accounts", "User")
    known = addresses.objects.values_list("user_id", flat=True)
    for user in users.objects.exclude(email=None).exclude(pk__in=known).iterator():
        addresses.objects.create(user_id=user.pk, email=user.email.lower(), primary=True, verified=False)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_user_is_waiting"), ("account", "0009_emailaddress_unique_primary_email")]
    operations = [migrations.RunPython(note, migrations.RunPython.noop)]
