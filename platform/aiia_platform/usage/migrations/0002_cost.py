from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("usage", "0001_initial")]

    operations = [
        migrations.AddField("usagerecord", "cost", models.DecimalField(decimal_places=8, max_digits=14, null=True)),
    ]
