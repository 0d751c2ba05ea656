"""The autoencoders: errors, the published arithmetic, PCA as the linear optimum, units that are never active."""

import numpy as np
import pytest
import torch

from deep_features import autoencoder as ae
from deep_features import study
from image_data import load_images


@pytest.mark.equation("eq:autoencoder")
def test_the_exercise_s_autoencoder_is_its_formula():
    torch.manual_seed(0)
    model = ae.Autoencoder(code_dim=5).double()
    pixels = torch.rand(3, 784, dtype=torch.float64)
    (encoder,), (decoder,) = model.encoder, model.decoder
    codes = np.maximum(0, pixels.numpy() @ encoder.weight.detach().numpy().T + encoder.bias.detach().numpy())
    assert (codes == 0).any()
    expected = 1 / (1 + np.exp(-(codes @ decoder.weight.detach().numpy().T + decoder.bias.detach().numpy())))
    np.testing.assert_allclose(model(pixels).detach().numpy(), expected, rtol=1e-10)
    errors = ae.squared_errors(model, (pixels,)).detach().numpy()
    np.testing.assert_allclose(errors, ((expected - pixels.numpy()) ** 2).mean(1), rtol=1e-10)


def test_a_published_mean_is_a_tenth_of_the_mean():
    half = ae.Autoencoder(code_dim=1)
    for parameter in half.parameters():
        torch.nn.init.zeros_(parameter)  # its output is 1/2 everywhere
    black = torch.zeros(10_000, 784)  # so each image's error is 1/4
    errors = ae.errors_of(half, black)
    assert errors.mean().item() == pytest.approx(0.25)
    # the notebooks add the errors of 1,000 images and divide by 10,000
    assert ae.as_published(errors) == pytest.approx(0.025)


@pytest.mark.equation("eq:pca")
def test_pca_is_the_best_linear_autoencoder():
    pixels = load_images("digits").pixels("train").flatten(1).double()  # (N, 784)
    centred = pixels - pixels.mean(0)
    values = np.linalg.svd(centred.numpy(), compute_uv=False)
    for code in (4, 16):
        error = (ae.pca(pixels, pixels, code) - pixels).square().mean().item()
        assert error == pytest.approx((values[code:] ** 2).sum() / pixels.numel(), rel=1e-6)
    # its projection, as the weights of a linear autoencoder, leaves no gradient
    best = (ae.pca(pixels, pixels, 4) - pixels).square().mean().item()
    components = torch.from_numpy(np.linalg.svd(centred.numpy(), full_matrices=False)[2][:4])  # (4, 784)
    model = ae.Autoencoder(code_dim=4, linear=True).double()
    (encoder,), (decoder,) = model.encoder, model.decoder
    encoder.weight.data, encoder.bias.data = components, -components @ pixels.mean(0)
    decoder.weight.data, decoder.bias.data = components.T.contiguous(), pixels.mean(0)
    loss = ae.squared_errors(model, (pixels,)).mean()
    loss.backward()
    assert loss.item() == pytest.approx(best, rel=1e-9)
    assert all(parameter.grad.abs().max() < 1e-12 for parameter in model.parameters())


def test_a_linear_autoencoder_approaches_pca():
    torch.manual_seed(0)
    pixels, steps = load_images("digits").pixels("train").flatten(1), 1500
    model = ae.Autoencoder(code_dim=4, linear=True)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps)
    for _ in range(steps):
        loss = ae.squared_errors(model, (pixels[torch.randint(len(pixels), (64,))],)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
    best = (ae.pca(pixels, pixels, 4) - pixels).square().mean().item()
    assert best < ae.errors_of(model, pixels).mean().item() < 1.1 * best


def test_units_that_are_never_active_are_counted():
    model = ae.Autoencoder(code_dim=3)
    torch.nn.init.zeros_(model.encoder[0].weight)
    model.encoder[0].weight.data[2, 7] = 1
    model.encoder[0].bias.data = torch.tensor([1.0, -1.0, -0.5])  # always, never, where pixel 7 is above a half
    pixels = torch.zeros(5000, 784)
    assert ae.dead_units(model, pixels) == 2
    pixels[4999, 7] = 0.6
    assert ae.dead_units(model, pixels) == 1


def test_a_walk_begins_and_ends_at_reconstructions():
    torch.manual_seed(0)
    model = ae.Autoencoder(code_dim=8)
    test = torch.rand(9, 784)
    errors = ae.errors_of(model, test)
    found = ae.pictures(model, test, errors)
    ends = study.to_bytes(model(test[:2]).detach())
    assert [found["walk"]["codes"][i] for i in (0, -1)] == ends
    assert found["worst"]["mse"] == sorted(errors.tolist(), reverse=True)[: ae.SHOWN]
    assert found["worst"]["images"][0] == study.to_bytes(test)[int(errors.argmax())]


def test_hidden_layers_are_counted():
    model = ae.Autoencoder(code_dim=128, hidden_dim=256)
    expected = sum(a * b + b for a, b in ((784, 256), (256, 128), (128, 256), (256, 784)))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected < 500_000
