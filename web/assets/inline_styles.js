// The policy forbids style attributes, and allows what a script sets on an element's `style`. Libraries that write the
// one get the other.
const { setAttribute } = Element.prototype;

Element.prototype.setAttribute = function (name, value) {
  if (name === "style" && this.style) this.style.cssText = value;
  else setAttribute.call(this, name, value);
};
