from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("generations", "0001_initial")]

    operations = [migrations.AddField("generation", "trace", models.JSONField(default=dict))]
