"""What templates need beyond Django's own tags."""

from typing import Any

from django import template
from django.forms import BoundField
from django.templatetags.static import static
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe

from aiia_platform.accounts.models import User
from aiia_platform.chats.models import Message
from aiia_platform.gateway import ModelInfo
from aiia_platform.generations.models import Generation
from aiia_platform.generations.position import Position
from aiia_web import markdown, words
from aiia_web.catalogue import Picker
from aiia_web.sidebar import Sidebar

register = template.Library()


@register.simple_tag
def icon(name: str, extra: str = "") -> SafeString:
    """A picture from the sprite. Screen readers pass over it; the text beside it or the label around it speaks."""
    return format_html(
        '<svg class="icon {}" aria-hidden="true"><use href="{}#{}"></use></svg>', extra, static("dist/icons.svg"), name
    )


@register.filter
def blocks(text: str) -> list[SafeString]:
    """Markdown as the HTML of its blocks, which the renderer has made safe."""
    return [mark_safe(html) for html in markdown.blocks(text)]  # noqa: S308


@register.filter
def position(message: Message) -> str:
    """How much of a running answer the page shows, for going on from there."""
    return str(Position.of(message.generation.attempt, message.text, message.reasoning))


@register.filter
def status_words(generation: Generation) -> str:
    return words.status(generation.status, generation.model)


@register.filter
def outcome_words(generation: Generation) -> str:
    return words.outcome(generation)


@register.filter
def model_words(model: ModelInfo) -> str:
    return words.model_state(model)


register.filter("managed_words", words.managed_model)
register.filter("model_facts", words.model_facts)
register.filter("held_words", words.held)
register.filter("bounds_words", words.bounds)
register.filter("machine_words", words.machine)
register.filter("entry_facts", words.catalogue_entry)


@register.filter("input")
def input_html(field: BoundField) -> SafeString:
    """A form's field in our look. The label says what it is, so that no placeholder has to."""
    return field.as_widget(attrs={"class": "input", "placeholder": False})


@register.simple_tag
def may_register() -> bool:
    """Whether strangers may make an account."""
    return User.objects.may_register()


@register.inclusion_tag("components/chat_groups.html", takes_context=True)
def chat_groups(context: dict[str, Any]) -> dict[str, Any]:
    """The chats of the person who looks."""
    return {"sidebar": Sidebar(context["user"]), "current": context.get("chat")}


@register.inclusion_tag("components/model_foot.html", takes_context=True)
def model_foot(context: dict[str, Any]) -> dict[str, Any]:
    """The model that the page works with, or the one that a new chat would."""
    return {"picker": context.get("picker") or Picker()}


@register.filter
def undo(message: Any) -> str:
    """Id of the deleted chat that a notice offers to bring back; "" for other notices."""
    tags = str(message.extra_tags or "")
    return tags.removeprefix("undo:") if tags.startswith("undo:") else ""
